//! Kubelet's door to the cloud: classify, decide, forward and record, replay.
