"""The one connection to the broker: kept up (`link`), over MQTT (`mqtt`), with what came of signed files and chunks."""
