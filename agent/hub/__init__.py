"""The hub: one link to every node, the cluster's view, placement, and the seats it hands out."""
