"""The typed configuration. Only this package, and what speaks to Hydra in launching/, knows OmegaConf."""
