"""Models + features + mode -> a share with a status per sample; the same at a participant and at an initiator."""
