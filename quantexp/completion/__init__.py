"""Completion of the command line in bash, zsh and fish; the shell asks us on each Tab."""
