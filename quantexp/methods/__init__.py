"""One file per method, each readable beside its paper. The file's name is the method's name."""
