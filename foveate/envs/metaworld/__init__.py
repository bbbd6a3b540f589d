"""Meta-World: cameras, state and segmentation of its MuJoCo scenes."""
