"""Messages of the Open Inference Protocol, generated from protos/ by scripts/protos."""
