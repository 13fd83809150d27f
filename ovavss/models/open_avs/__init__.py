"""OpenAVS: listener, translator, detector, masker."""
