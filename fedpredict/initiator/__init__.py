"""The initiator's service: catalogue, fan-out, combining, edges."""
