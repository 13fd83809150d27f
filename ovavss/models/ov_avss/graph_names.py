"""Names of the four graphs, in the order in which they are built. Imports nothing."""

AUDIO_ENCODER, USSLM_GRAPH = "audio_encoder", "usslm"
CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER = "clip_image_encoder", "clip_text_encoder"
GRAPHS = (AUDIO_ENCODER, USSLM_GRAPH, CLIP_IMAGE_ENCODER, CLIP_TEXT_ENCODER)
