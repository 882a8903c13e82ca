"""runnerd runs a repository's own GitHub Actions workflows, each job in a fresh microVM."""

__version__ = "0.1.0"
