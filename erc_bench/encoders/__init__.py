"""Pre-trained encoders: found, loaded, optimised, and made fast."""
