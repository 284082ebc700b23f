"""The plain and residual networks of He et al. 2015, their shortcuts and fused layers."""
