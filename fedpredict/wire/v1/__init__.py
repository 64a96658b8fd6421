"""Generated from protos/fedpredict/wire/v1 by scripts/protos; not edited by hand."""
