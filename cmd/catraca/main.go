// Command catraca is an AI gateway that knows whose request it is, passes it on, counts what came back and remembers.
//
//	catraca serve     both planes: clients on :8080, the admin API on :8081
//	catraca proxy     the data plane alone           catraca control  the control plane alone
//	catraca check     are the settings right?        catraca doctor   does what they name answer?
//	catraca migrate   bring the database up to date  catraca simulate an upstream that costs nothing
//	catraca tenant, key, budget, model, usage, export, audit, proxies, deadletter, person
//	                                                 the admin client, over the admin API
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // slim images have no time zones, and every tenant lives in one

	"github.com/alecthomas/kong"
)

func main() {
	os.Exit(catraca(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// commands is the command line.
type commands struct {
	Serve    serveCommand    `cmd:"" help:"Run the proxy and the admin API until SIGTERM."`
	Proxy    proxyCommand    `cmd:"" help:"Run the proxy alone, a sidecar without a database, until SIGTERM."`
	Control  controlCommand  `cmd:"" help:"Run what proxies need: ledger, configuration, admin API, until SIGTERM."`
	Migrate  migrateCommand  `cmd:"" help:"Bring the database to this version's schema."`
	Check    checkCommand    `cmd:"" help:"Validate the settings and print what is in force, secrets masked."`
	Doctor   doctorCommand   `cmd:"" help:"Try every dependency and say what to do about those that fail."`
	Simulate simulateCommand `cmd:"" help:"Run a stand-in for the gateway and the providers, for tests and first steps."`
	Tenant   tenantCommand   `cmd:"" help:"Create, list, show, change, pause and delete tenants."`
	Key      keyCommand      `cmd:"" help:"Create, list, rotate and revoke the keys of tenants."`
	Model    modelCommand    `cmd:"" help:"The registry of models and their prices."`
	Budget   budgetCommand   `cmd:"" help:"Limits on what clients may use: set, watch, pause, top up, try."`
	Usage    usageCommand    `cmd:"" help:"Show recent calls: tokens, US$ and R$."`
	Audit    auditCommand    `cmd:"" help:"Check that every call is in the ledger once and that all sums agree; exit 1 when not."`
	Proxies  proxiesCommand  `cmd:"" help:"List the proxies: version, configuration, spool."`
	Export   exportCommand   `cmd:"" help:"Write the log, call by call, as CSV or JSON lines."`
	Person   personCommand   `cmd:"" help:"Erase a person from the log, or export what it has of one."`

	DeadLetter deadLetterCommand `cmd:"" name:"deadletter" help:"Events that could not be recorded: list, show, replay, discard."`

	Version versionCommand `cmd:"" help:"Print the version."`
}

// terminal is what a command has of the outside world.
type terminal struct {
	ctx     context.Context
	environ []string
	out     io.Writer
	err     io.Writer
	now     func() time.Time
}

// exitCode ends a command that has already said why it fails.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// catraca runs one command line and returns the code to exit with: 0 done, 1 failed, 2 not understood.
func catraca(ctx context.Context, args, environ []string, out, errOut io.Writer) (code int) {
	// kong asks to exit in the middle of parsing, after --help; a panic is the only way out from there.
	defer func() {
		if r := recover(); r != nil {
			asked, ok := r.(exitCode)
			if !ok {
				panic(r)
			}
			code = int(asked)
		}
	}()
	var cli commands
	parser, err := kong.New(&cli,
		kong.Name("catraca"),
		kong.Description("An AI gateway in front of the Vercel AI Gateway, OpenAI, Groq, Anthropic and Google that knows whose each call is and what it cost. "+
			"Settings are environment variables; `catraca check` lists them."),
		kong.Writers(out, errOut),
		kong.Exit(func(code int) { panic(exitCode(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		fmt.Fprintln(errOut, "catraca: BUG in the command line:", err)
		return 1
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(errOut, "catraca: %v\nRun catraca --help, or --help behind a command, for what there is.\n", err)
		return 2
	}
	err = parsed.Run(&terminal{ctx: ctx, environ: environ, out: out, err: errOut, now: time.Now})
	var asked exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &asked):
		return int(asked)
	}
	fmt.Fprintf(errOut, "catraca: %v\n", err)
	return 1
}

type serveCommand struct {
	Demo bool `help:"For a first look: a tenant with a key, and a simulator where no upstream key is set."`
}

// Run serves until a signal or until something that it cannot do without fails.
func (c serveCommand) Run(t *terminal) error {
	if c.Demo {
		return t.runPlane(planeBoth, func(ctx context.Context, cfg Config, log *slog.Logger) error { return serveDemo(ctx, cfg, log, t.out) })
	}
	return t.runPlane(planeBoth, run)
}

type proxyCommand struct{}

// Run is serve's for the data plane.
func (proxyCommand) Run(t *terminal) error { return t.runPlane(planeProxy, runProxy) }

type controlCommand struct{}

// Run is serve's for the control plane.
func (controlCommand) Run(t *terminal) error { return t.runPlane(planeControl, runControl) }

// runPlane reads the settings for a plane and runs it until a signal.
func (t *terminal) runPlane(p plane, run func(context.Context, Config, *slog.Logger) error) error {
	cfg, err := LoadConfig(t.environ)
	cfg.plane = p
	if err := errors.Join(err, cfg.Validate()); err != nil {
		return fmt.Errorf("the settings are wrong:\n%w", err)
	}
	ctx, stop := signal.NotifyContext(t.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal kills at once: who sends it does not want to wait for the drain.
	context.AfterFunc(ctx, stop)
	log := slog.New(slog.NewJSONHandler(t.err, &slog.HandlerOptions{Level: cfg.LogLevel}))
	for _, line := range cfg.Warnings() {
		log.Warn("settings", "warning", line)
	}
	return run(ctx, cfg, log)
}
