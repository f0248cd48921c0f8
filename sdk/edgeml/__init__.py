"""edgeml on the host: export, quantize, check, publish and steer a fleet. Nothing is imported until it is used."""
