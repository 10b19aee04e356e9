//go:build tools

// Package parts names the real Kubernetes programs that edge is tested against, so that go.mod keeps their versions.
//
// For another version of Kubernetes, vX.Y.Z: in go.mod set the require of k8s.io/kubernetes to it and each replace of a
// k8s.io module to v0.Y.Z, run `go mod tidy` here, and scripts/parts.
package parts

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
