// go-git-client asks a git server as Argo CD does: by go-git, in memory.
//
//	go-git-client list URL              its refs
//	go-git-client clone URL [DEPTH]     the commits of HEAD, and the files of the last one
//	go-git-client fetch FOLDER URL      clones into FOLDER, or fetches if it is there; says HEAD
package main

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
)

func main() {
	if len(os.Args) < 3 {
		fail(errors.New("usage: go-git-client list|clone|fetch ..."))
	}
	switch os.Args[1] {
	case "list":
		list(os.Args[2])
	case "clone":
		depth := 0
		if len(os.Args) > 3 {
			depth, _ = strconv.Atoi(os.Args[3])
		}
		clone(os.Args[2], depth)
	case "fetch":
		fetch(os.Args[2], os.Args[3])
	}
}

func list(url string) {
	remote := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{url}})
	refs, err := remote.List(&git.ListOptions{PeelingOption: git.AppendPeeled})
	fail(err)
	lines := []string{}
	for _, ref := range refs {
		lines = append(lines, ref.String())
	}
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
}

func clone(url string, depth int) {
	repository, err := git.Clone(memory.NewStorage(), nil, &git.CloneOptions{URL: url, Depth: depth})
	fail(err)
	head, err := repository.Head()
	fail(err)
	commits, err := repository.Log(&git.LogOptions{From: head.Hash()})
	fail(err)
	err = commits.ForEach(func(commit *object.Commit) error {
		fmt.Println("commit", commit.Hash)
		return nil
	})
	// go-git's log walks on past where history is cut.
	if depth == 0 || !errors.Is(err, plumbing.ErrObjectNotFound) {
		fail(err)
	}
	commit, err := repository.CommitObject(head.Hash())
	fail(err)
	files, err := commit.Files()
	fail(err)
	fail(files.ForEach(func(file *object.File) error {
		fmt.Println("file", file.Name, file.Hash)
		return nil
	}))
}

func fetch(folder, url string) {
	repository, err := git.PlainOpen(folder)
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repository, err = git.PlainClone(folder, true, &git.CloneOptions{URL: url})
	} else if err == nil {
		err = repository.Fetch(&git.FetchOptions{Force: true, RefSpecs: []config.RefSpec{"+refs/heads/*:refs/heads/*"}})
		if errors.Is(err, git.NoErrAlreadyUpToDate) {
			err = nil
		}
	}
	fail(err)
	head, err := repository.Head()
	fail(err)
	fmt.Println(head.Hash())
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
