"""What model families share: layers, image resizing, norm stats, robot mappings, tokenizer."""
