"""OV-AVSS: a file for each box of the paper's figures 2 and 3."""
