"""The device's HTTP server: live models (`models`), each with its thread and queue (`worker`), the doors
(`predict`, `oip`), who may enter (`access`).

Nothing here fetches, verifies or decides what to run: the agent's shell activates, this room answers.
"""
