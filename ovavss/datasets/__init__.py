"""AVSBench-OV, Sounding Shapes and Sounding Stamps."""
