//go:build tools

package flannelcni

import _ "github.com/containernetworking/plugins/plugins/meta/flannel"
