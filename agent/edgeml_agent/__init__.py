"""The device: fetches what its owner signed, proves it, serves it, and keeps serving when anything fails."""
