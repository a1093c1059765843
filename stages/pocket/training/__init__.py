"""The recipe behind the pocket models: pictures, tokenizer, vision tower, dual encoder, captioner, scores."""
