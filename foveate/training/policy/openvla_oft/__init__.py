"""L1-regression training of OpenVLA-OFT, with and without LightVLA: low-rank adapters, or all weights."""
