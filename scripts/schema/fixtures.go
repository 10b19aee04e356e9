package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

func writeFixtures(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, make := range map[string]func() ([][][]byte, error){
		"codec": codecFixtures, "streams": streamFixtures, "status": statusFixtures, "patches": patchFixtures,
	} {
		records, err := make()
		if err != nil {
			return err
		}
		if err := writeRecords(filepath.Join(dir, name+".bin.gz"), records); err != nil {
			return err
		}
	}
	return nil
}

// codecFixtures are, of every kind, objects as protobuf, as the JSON that Go prints of what it reads from that
// protobuf, and as the protobuf that Go writes of what it reads from that JSON (empty where it is the same).
// The kind "opaque" has no JSON: it holds what the table does not describe.
func codecFixtures() ([][][]byte, error) {
	s := newScheme()
	serializer := protobuf.NewSerializer(s, s)
	var out [][][]byte
	for _, k := range kinds() {
		gv, _ := schema.ParseGroupVersion(strings.Replace(k.apiVersion, "*", "policy/v1", 1))
		gvk := gv.WithKind(k.name)
		list := strings.HasSuffix(k.name, "List")
		for mode, f := range map[string]*filler{
			"zero":    nil,
			"full":    {},
			"sparse1": {sparse: rand.New(rand.NewPCG(1, 1))},
			"sparse2": {sparse: rand.New(rand.NewPCG(2, uint64(len(k.name))))},
		} {
			if list && mode == "full" {
				continue // its items have one of their own
			}
			object := reflect.New(k.goType)
			if f != nil {
				f.fill(object.Elem(), 0)
			}
			pair, err := pair(serializer, object.Interface().(runtime.Object), gvk)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", mode, gvk, err)
			}
			out = append(out, append([][]byte{[]byte(mode + " " + k.apiVersion + " " + k.name)}, pair...))
		}
	}
	sortRecords(out)
	crd := &apiextensionsv1.CustomResourceDefinition{}
	(&filler{opaque: true}).fill(reflect.ValueOf(crd).Elem(), 0)
	crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	var opaque bytes.Buffer
	if err := serializer.Encode(crd, &opaque); err != nil {
		return nil, err
	}
	return append(out, [][]byte{[]byte("opaque"), opaque.Bytes(), nil, nil}), nil
}

func pair(s *protobuf.Serializer, object runtime.Object, gvk schema.GroupVersionKind) ([][]byte, error) {
	object.GetObjectKind().SetGroupVersionKind(gvk)
	var first, second bytes.Buffer
	if err := s.Encode(object, &first); err != nil {
		return nil, err
	}
	read := reflect.New(reflect.TypeOf(object).Elem()).Interface().(runtime.Object)
	if _, _, err := s.Decode(first.Bytes(), nil, read); err != nil {
		return nil, err
	}
	read.GetObjectKind().SetGroupVersionKind(gvk)
	text, err := json.Marshal(read)
	if err != nil {
		return nil, err
	}
	again := reflect.New(reflect.TypeOf(object).Elem()).Interface().(runtime.Object)
	if err := json.Unmarshal(text, again); err != nil {
		return nil, err
	}
	again.GetObjectKind().SetGroupVersionKind(gvk)
	if err := s.Encode(again, &second); err != nil {
		return nil, err
	}
	written := second.Bytes()
	if bytes.Equal(first.Bytes(), written) {
		written = nil
	}
	return [][]byte{first.Bytes(), text, written}, nil
}

// writeRecords writes records of parts, each part behind its length (4 bytes, big endian).
func writeRecords(path string, records [][][]byte) error {
	var buf bytes.Buffer
	zip, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return err
	}
	for _, record := range records {
		for _, part := range record {
			if err := binary.Write(zip, binary.BigEndian, uint32(len(part))); err != nil {
				return err
			}
			if _, err := zip.Write(part); err != nil {
				return err
			}
		}
	}
	if err := zip.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, buf.Bytes(), 0o644)
}

func sortRecords(records [][][]byte) {
	slices.SortFunc(records, func(a, b [][]byte) int { return bytes.Compare(a[0], b[0]) })
}
