"""The networks of both systems; they import torch and nothing of ours outside models/ and msda/."""
