"""A policy as a server that robots' clients ask, over the protocol of openpi."""
