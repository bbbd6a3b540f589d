"""Model families behind one protocol: π0 and π0.5, OpenVLA-OFT, image-text models; layers that they share."""
