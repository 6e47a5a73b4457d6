"""How numbers are made: the settings that `protocol=official` takes from the papers."""
