// schema writes what edge knows of the Kubernetes types: the field table that its protobuf codec
// and its strategic merge patches are driven by, and the fixtures that prove both.
//
//	go run . table    > ../../src/kube/schema.txt
//	go run . fixtures ../../tests/fixtures/kube
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "table":
		return writeTable(os.Stdout)
	case len(args) == 2 && args[0] == "fixtures":
		return writeFixtures(args[1])
	}
	return fmt.Errorf("usage: schema table | schema fixtures DIR")
}
