// Package printers makes the fixtures that edge's tables are held to: pods and nodes, and the rows that
// Kubernetes' own printers make of them. It is a test, so that the clock stands still (testing/synctest).
//
//	FIXTURES=../../tests/fixtures/kube/tables.bin.gz go test .
package printers

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/printers"
	"k8s.io/kubernetes/pkg/printers/internalversion"
)

func TestFixtures(t *testing.T) {
	path := os.Getenv("FIXTURES")
	if path == "" {
		t.Skip("FIXTURES is not set")
	}
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	synctest.Test(t, func(t *testing.T) {
		generator := printers.NewTableGenerator().With(internalversion.AddHandlers)
		random := rand.New(rand.NewPCG(4, 4))
		for i := range 600 {
			var object, internal runtime.Object = pod(random), &core.Pod{}
			if i >= 500 {
				object, internal = node(random), &core.Node{}
			}
			if err := legacyscheme.Scheme.Convert(object, internal, nil); err != nil {
				t.Fatal(err)
			}
			table, err := generator.GenerateTable(internal, printers.GenerateOptions{Wide: true})
			if err != nil {
				t.Fatal(err)
			}
			var columns []string
			for _, c := range table.ColumnDefinitions {
				columns = append(columns, fmt.Sprintf("%s %d", c.Name, c.Priority))
			}
			for _, part := range []any{object, map[string]any{
				"now": time.Now().UTC().Format(time.RFC3339), "columns": columns,
				"cells": table.Rows[0].Cells, "conditions": table.Rows[0].Conditions,
			}} {
				text, err := json.Marshal(part)
				if err != nil {
					t.Fatal(err)
				}
				if err := binary.Write(zip, binary.BigEndian, uint32(len(text))); err != nil {
					t.Fatal(err)
				}
				if _, err := zip.Write(text); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func pick[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

func ago(random *rand.Rand) metav1.Time {
	at := time.Now().Add(-time.Duration(pick(random, 0, 1, 59, 119, 120, 330, 7_000, 20_000, 100_000, 500_000, 9_000_000, 200_000_000)) * time.Second)
	return metav1.NewTime(at)
}

func pod(random *rand.Rand) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}}
	p.Name = "p"
	if random.IntN(5) > 0 {
		p.CreationTimestamp = ago(random)
	}
	p.Status.Phase = pick(random, corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, "")
	p.Status.Reason = pick(random, "", "", "", "Evicted", "NodeLost")
	p.Spec.NodeName = pick(random, "", "n")
	p.Status.NominatedNodeName = pick(random, "", "", "m")
	if random.IntN(2) == 0 {
		p.Status.PodIP = "10.0.0.1"
		p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	}
	if random.IntN(4) == 0 {
		p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.PodInitialized, corev1.PodScheduled, "gate"} {
		if random.IntN(2) == 0 {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: kind, Status: pick(random, corev1.ConditionTrue, corev1.ConditionFalse),
				Reason: pick(random, "", "", "SchedulingGated"),
			})
		}
	}
	for i := range random.IntN(3) {
		p.Spec.ReadinessGates = append(p.Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: pick(random, corev1.PodConditionType("gate"), corev1.PodConditionType(fmt.Sprint("g", i)))})
	}
	for i := range random.IntN(4) {
		c := corev1.Container{Name: fmt.Sprint("i", i)}
		if random.IntN(3) == 0 {
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		if random.IntN(5) > 0 {
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, status(random, c.Name, 3))
		}
	}
	for i := range random.IntN(4) {
		c := corev1.Container{Name: fmt.Sprint("c", i)}
		p.Spec.Containers = append(p.Spec.Containers, c)
		if random.IntN(5) > 0 {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, status(random, c.Name, 1))
		}
	}
	return p
}

// status is of a container that has done well with a chance of done in done plus one.
func status(random *rand.Rand, name string, done int) corev1.ContainerStatus {
	started := random.IntN(2) == 0
	s := corev1.ContainerStatus{Name: name, Ready: random.IntN(2) == 0, RestartCount: pick[int32](random, 0, 0, 1, 7)}
	if random.IntN(2) == 0 {
		s.Started = &started
	}
	switch random.IntN(3 + done) {
	case 0:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: pick(random, "", "PodInitializing", "CrashLoopBackOff", "ContainerCreating")}
	case 1:
		s.State.Running = &corev1.ContainerStateRunning{}
	case 2:
		s.State.Terminated = terminated(random)
	default:
		s.State.Terminated = &corev1.ContainerStateTerminated{Reason: "Completed"}
	}
	if random.IntN(2) == 0 {
		s.LastTerminationState.Terminated = terminated(random)
	}
	return s
}

func terminated(random *rand.Rand) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: pick[int32](random, 0, 1, 137), Signal: pick[int32](random, 0, 0, 9),
		Reason: pick(random, "", "Error", "OOMKilled", "Completed"),
	}
	if random.IntN(4) > 0 {
		t.FinishedAt = ago(random)
	}
	return t
}

func node(random *rand.Rand) *corev1.Node {
	n := &corev1.Node{TypeMeta: metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}}
	n.Name, n.CreationTimestamp = "n", ago(random)
	n.Labels = map[string]string{"a": "b"}
	for _, label := range []string{"node-role.kubernetes.io/", "node-role.kubernetes.io/worker", "node-role.kubernetes.io/edge", "kubernetes.io/role"} {
		if random.IntN(3) == 0 {
			n.Labels[label] = pick(random, "", "gateway")
		}
	}
	n.Spec.Unschedulable = random.IntN(3) == 0
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeDiskPressure} {
		if random.IntN(3) > 0 {
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: kind, Status: pick(random, corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown)})
		}
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeHostName, corev1.NodeInternalIP, corev1.NodeInternalIP, corev1.NodeExternalIP} {
		if random.IntN(2) == 0 {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: fmt.Sprint("10.0.0.", random.IntN(9))})
		}
	}
	n.Status.NodeInfo = corev1.NodeSystemInfo{
		KubeletVersion: pick(random, "", "v1.36.3"), OSImage: pick(random, "", "Debian"),
		KernelVersion: pick(random, "", "6.12"), Architecture: pick(random, "", "arm64"),
		ContainerRuntimeVersion: pick(random, "", "containerd://2.0"),
	}
	return n
}
