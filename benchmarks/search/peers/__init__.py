"""One file per peer. Each drives the real library through its public interface and charges for every sample."""
