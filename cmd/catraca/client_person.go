package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/catraca/catraca/dashboard"
)

type personCommand struct {
	Erase  personErase  `cmd:"" help:"Make a person's calls nobody's; what they used and cost stays counted."`
	Export personExport `cmd:"" help:"All calls of a person, as JSON lines."`
}

// whichPerson is who is meant.
type whichPerson struct {
	Tenant string `required:"" help:"Id or name." aliases:"client"`
	Phone  string `required:"" placeholder:"NUMBER|-" help:"The number in any usual spelling, or the pseudonym as the log has it; - reads it from the standard input, where no list of processes shows it."`
}

// named reads the number, and finds the path that it is sent to.
func (p whichPerson) named(t *terminal, api *client) (path string, in dashboard.PersonNamed, err error) {
	if in.Phone, err = readPhone(p.Phone, os.Stdin); err != nil {
		return "", in, err
	}
	tenant, err := api.tenant(t.ctx, p.Tenant)
	if err != nil {
		return "", in, err
	}
	return "/api/ai-gateway/clients/" + tenant.ID.String() + "/persons/", in, nil
}

// readPhone takes the first line of a reader in the place of "-".
func readPhone(flag string, from io.Reader) (string, error) {
	if flag == "-" {
		line, err := bufio.NewReader(io.LimitReader(from, 1<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the number from the standard input: %w", err)
		}
		flag = line
	}
	flag = strings.TrimSpace(flag)
	if flag == "" {
		return "", errors.New("--phone is empty: write the number, or - and the number on the standard input")
	}
	return flag, nil
}

type personErase struct {
	asJSON
	whichPerson
	Yes bool `required:"" help:"Really; it cannot be undone."`
}

// Run erases.
func (c personErase) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	path, in, err := c.named(t, api)
	if err != nil {
		return err
	}
	var erased dashboard.PersonErased
	if err := api.call(t.ctx, http.MethodPost, path+"erase", nil, in, &erased); err != nil {
		return err
	}
	if c.JSON {
		return writeJSON(t.out, erased)
	}
	_, err = fmt.Fprintf(t.out, "Erased the person from %d calls and %d dead letters. Sums are what they were.\n"+
		"Calls that are still on their way to the ledger follow within six hours of when they come.\n", erased.Calls, erased.Letters)
	return err
}

type personExport struct {
	whichPerson
}

// Run exports.
func (c personExport) Run(t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	path, in, err := c.named(t, api)
	if err != nil {
		return err
	}
	return api.stream(t.ctx, http.MethodPost, path+"export", nil, in, t.out)
}
