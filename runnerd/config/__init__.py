"""The configuration: config.toml, environment and credentials become one frozen, checked `Config`."""

from runnerd.config.loading import ConfigErrors, Problem, check, load
from runnerd.config.sections import Config, Secret, Setting

__all__ = ["Config", "ConfigErrors", "Problem", "Secret", "Setting", "check", "load"]
