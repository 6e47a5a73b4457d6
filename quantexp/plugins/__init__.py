"""Methods of a user's own, in their own repository: found, identified and loaded; no fork."""
