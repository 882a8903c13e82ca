"""Bare mirrors of the configured remotes, reading a tree at a commit, filling a workspace.

The only room that runs git on the host: without the user's configuration, hooks, filters or submodules.
"""
