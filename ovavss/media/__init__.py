"""Any file in, frames and waveform out."""
