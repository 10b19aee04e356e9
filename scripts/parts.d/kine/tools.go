//go:build tools

package kine

import _ "github.com/k3s-io/kine"
