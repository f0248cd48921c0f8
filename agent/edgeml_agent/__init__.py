"""The device: fetch, verify and serve the releases that the owner signed, and keep serving when anything fails."""
