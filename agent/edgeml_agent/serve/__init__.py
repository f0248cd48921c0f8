"""The device's HTTP server: models with a thread and a queue each, a file per door, who may enter (`access`).

Nothing here fetches, verifies or decides what to run: the agent's shell activates, this room answers.
"""
