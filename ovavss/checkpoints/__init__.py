"""Published weights in, our names out; what ships; what is fetched."""
