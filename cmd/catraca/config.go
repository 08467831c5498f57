package main

import (
	"log/slog"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/catraca/catraca/tenancy"
)

// Config is every setting there is; this file is the one text about them. All come from the environment, so that a
// sidecar needs no file: an empty variable counts as not set, and each secret can also be read from a file, by the same
// name with _FILE behind it (one line break at its end is dropped; to set both is a mistake). Sizes are written as
// 33554432, 32MiB or 4GiB, times as 500ms, 25s or 10m.
//
// `catraca serve` has two shapes, by what is set. With neither CATRACA_DATABASE_URL nor CATRACA_REDIS_URL it is embedded: it
// keeps everything in CATRACA_DATA_DIR and makes the secrets it lacks. With both it is the real thing and makes up nothing.
//
// `catraca control` is the half with the database: it needs both of these, and a credential that proxies show. `catraca proxy`
// is the half that clients call: it needs CATRACA_CONTROL_URL, that credential and CATRACA_REDIS_URL, and never has a
// database. `catraca check --for proxy` says what one of them lacks.
type Config struct {
	// Listen is the address, host:port, where OpenAI clients connect. Default 127.0.0.1:8080, which only programs
	// on the same machine or in the same pod can reach. Change it to :8080 when others are to reach it over the network.
	Listen string `env:"CATRACA_LISTEN" envDefault:"127.0.0.1:8080"`

	// AdminListen is the address, host:port, of the admin API, /metrics, /healthz and /readyz. Default 127.0.0.1:8081.
	// Change the host when Prometheus or the kubelet ask from outside; who can reach it still needs the admin token
	// for the API, and nothing for the other three.
	AdminListen string `env:"CATRACA_ADMIN_LISTEN" envDefault:"127.0.0.1:8081"`

	// AdminURL is where `catraca tenant`, `key`, `model` and `usage` find the admin API. No default: without it the
	// address of CATRACA_ADMIN_LISTEN is asked, over http. Change it to administer another machine.
	AdminURL string `env:"CATRACA_ADMIN_URL"`

	// DataDir holds the spool of calls that are not in the ledger yet and the last good configuration, sealed, and when
	// embedded the SQLite database and the generated secrets. It is one process's. Default ./data. It must survive a restart: whatever is in the spool is money not yet booked.
	DataDir string `env:"CATRACA_DATA_DIR" envDefault:"./data"`

	// DatabaseURL is Postgres 14 or newer, as postgres://user:password@host:5432/database. No default: embedded. Set
	// it together with CATRACA_REDIS_URL when more than one process is to share tenants and usage.
	DatabaseURL SecretURL `env:"CATRACA_DATABASE_URL"`

	// RedisURL is Redis or Valkey 7 or newer, as redis://user:password@host:6379/0 (rediss:// for TLS). A cluster is
	// redis://host:6379?addr=host2:6379, Sentinel is redis://host:26379/0?master_name=name. No default: embedded.
	RedisURL SecretURL `env:"CATRACA_REDIS_URL"`

	// ControlURL is where `catraca proxy` finds its control plane: https://host:port, or http:// on loopback. No default:
	// the proxy needs it, and serve, which is both planes in one process, refuses it.
	ControlURL string `env:"CATRACA_CONTROL_URL"`

	// SidecarToken is the credential that proxies show to the control plane, at least 16 characters. On the control
	// plane it is a list, newest first, separated by commas: put a new one in front, give it to the proxies, take the old
	// one away. On a proxy the first is shown; the others only open what was kept on disk under them. No default: one of
	// this or certificates is needed. Make one: openssl rand -hex 24
	SidecarToken Secret `env:"CATRACA_SIDECAR_TOKEN"`

	// ControlListen is the address, host:port, where `catraca control` listens for proxies. Default 127.0.0.1:8082.
	// Change it to :8082 when proxies come over the network, and give it a certificate then: without one, tokens and the
	// keys of phone pseudonyms would cross the network in the clear.
	ControlListen string `env:"CATRACA_CONTROL_LISTEN" envDefault:"127.0.0.1:8082"`

	// ControlTLSCert is the file with the control plane's certificate in PEM, the intermediate ones behind it. No
	// default: plain HTTP. It goes with CATRACA_CONTROL_TLS_KEY; both are read again when they change.
	ControlTLSCert string `env:"CATRACA_CONTROL_TLS_CERT"`

	// ControlTLSKey is the file with the key of that certificate, in PEM. No default.
	ControlTLSKey string `env:"CATRACA_CONTROL_TLS_KEY"`

	// ControlClientCA is the file with the authorities, in PEM, whose certificates the control plane accepts of proxies
	// in the place of a token (mTLS). No default: only tokens are. It is read again when it changes.
	ControlClientCA string `env:"CATRACA_CONTROL_CLIENT_CA"`

	// ControlCA is the file with the authorities, in PEM, that a proxy trusts to vouch for its control plane. No default:
	// those of the system. It is read again when it changes.
	ControlCA string `env:"CATRACA_CONTROL_CA"`

	// ProxyTLSCert is the file with the certificate, in PEM, that a proxy shows to its control plane. No default: it
	// shows its token. It goes with CATRACA_PROXY_TLS_KEY; both are read again when they change.
	ProxyTLSCert string `env:"CATRACA_PROXY_TLS_CERT"`

	// ProxyTLSKey is the file with the key of that certificate, in PEM. No default.
	ProxyTLSKey string `env:"CATRACA_PROXY_TLS_KEY"`

	// ControlInsecure lets the link between the planes be plain HTTP beyond loopback. Default false. Set it on both sides
	// where a service mesh encrypts what leaves the pod, and nowhere else.
	ControlInsecure bool `env:"CATRACA_CONTROL_INSECURE" envDefault:"false"`

	// MasterKey wraps the stored secrets and keys the pseudonyms of phone numbers. It is a list of 32-byte keys in
	// base64 or hex, newest first, separated by commas: put a new one in front to rotate. Default when embedded: made
	// at the first start and kept in the data directory as master-key. Else required. Make one: openssl rand -base64 32
	MasterKey Secret `env:"CATRACA_MASTER_KEY"`

	// AdminToken is what the admin API wants as its bearer token, at least 16 characters. Default when embedded: made
	// at the first start and kept in the data directory as admin-token. Else required. Make one: openssl rand -hex 24
	AdminToken Secret `env:"CATRACA_ADMIN_TOKEN"`

	// TrustClientID lets a caller say who it is with X-Client-Id alone, with no key. Default false. Switch it on in a
	// sidecar whose only caller is the application beside it; on a listener that others reach it needs CATRACA_CALLER_TOKEN.
	TrustClientID bool `env:"CATRACA_TRUST_CLIENT_ID" envDefault:"false"`

	// CallerToken is what a caller that uses X-Client-Id must send as X-Catraca-Token, at least 16 characters. No
	// default: on a loopback listener nothing more is asked.
	CallerToken Secret `env:"CATRACA_CALLER_TOKEN"`

	// TimeZone is the IANA zone that a tenant gets when it is created without one; its days and months begin there.
	// Default America/Sao_Paulo. Change it when most of your clients live elsewhere. It changes no existing tenant.
	TimeZone string `env:"CATRACA_TIME_ZONE" envDefault:"America/Sao_Paulo"`

	// UnknownModelPolicy says what happens to a model that the registry does not know: refuse answers 404, meter
	// forwards it, counts its tokens and marks its cost unknown. Default refuse, because what has no price escapes
	// every budget in money. A tenant's own setting comes first.
	UnknownModelPolicy tenancy.Policy `env:"CATRACA_UNKNOWN_MODEL_POLICY" envDefault:"refuse"`

	// MaxBodyBytes is the largest request body that is taken; a larger one gets 413. Default 32MiB, enough for a
	// dozen photos in base64. Raise it for long audio, lower it when memory is short: a body is held while it is sent.
	MaxBodyBytes Bytes `env:"CATRACA_MAX_BODY_BYTES" envDefault:"32MiB"`

	// SpoolMaxBytes bounds the spool on disk; when it is full, new calls are refused with 503, because a call that
	// cannot be remembered must not be made. Default 4GiB, about four million calls that wait for a ledger.
	SpoolMaxBytes Bytes `env:"CATRACA_SPOOL_MAX_BYTES" envDefault:"4GiB"`

	// LogKeepMonths is how many months of single calls are kept beside the running one; older months are dropped whole,
	// and with them what was asked for by whom and when. The hourly sums stay, so that every total stays what it was.
	// Default 0: all are kept, for ever. Set it when the law or the disk says so: 12 keeps a year.
	LogKeepMonths int `env:"CATRACA_LOG_KEEP_MONTHS" envDefault:"0"`

	// DrainTimeout is how long a stop waits for calls under way before it cuts them. Default 25s, five less than the
	// 30 seconds Kubernetes gives before it kills. Raise both together where answers take minutes.
	DrainTimeout time.Duration `env:"CATRACA_DRAIN_TIMEOUT" envDefault:"25s"`

	// ConnectTimeout bounds connecting to an upstream, TLS included. Default 5s; raise it on slow networks only.
	ConnectTimeout time.Duration `env:"CATRACA_CONNECT_TIMEOUT" envDefault:"5s"`

	// FirstByteTimeout bounds the wait for an upstream's first byte after the request was sent. Default 10m, the
	// time-out of OpenAI's own clients: a reasoning model answers a plain request after minutes of silence.
	FirstByteTimeout time.Duration `env:"CATRACA_FIRST_BYTE_TIMEOUT" envDefault:"10m"`

	// IdleTimeout bounds the silence between two pieces of an answer. Default 10m, so that it only ever ends streams
	// that are dead: pauses of minutes inside a living one are normal.
	IdleTimeout time.Duration `env:"CATRACA_IDLE_TIMEOUT" envDefault:"10m"`

	// LogLevel is the least that is logged: debug, info, warn or error. Default info. No level logs prompts, keys or
	// phone numbers.
	LogLevel slog.Level `env:"CATRACA_LOG_LEVEL" envDefault:"info"`

	// EnableGateway is the first of the levels that decide between the AI gateway and the providers themselves; the
	// tenant's use_ai_gateway is the second. Default true. Set it to false to send everything straight to the providers.
	EnableGateway bool `env:"ENABLE_AI_GATEWAY" envDefault:"true"`

	// GatewayKey is the one shared key of the Vercel AI Gateway, vck_…. No default: without it nothing can go
	// through the gateway.
	GatewayKey Secret `env:"AI_GATEWAY_API_KEY"`

	// GatewayBaseURL is the gateway's address up to and including /v1. Default the public one. Change it to point at
	// `catraca simulate` (http://127.0.0.1:8090/v1).
	GatewayBaseURL string `env:"AI_GATEWAY_BASE_URL" envDefault:"https://ai-gateway.vercel.sh/v1"`

	// OpenAIKey is the shared key for calls straight to OpenAI. No default: without it no call goes there directly.
	OpenAIKey Secret `env:"OPENAI_API_KEY"`

	// OpenAIBaseURL is OpenAI's address. Default the public one. Beware of a shell in which clients were already
	// pointed at Catraca with this very variable: a base URL that is Catraca's own listener is refused at start.
	OpenAIBaseURL string `env:"OPENAI_BASE_URL" envDefault:"https://api.openai.com/v1"`

	// GroqKey is the shared key for calls straight to Groq. No default: without it no call goes there directly.
	GroqKey Secret `env:"GROQ_API_KEY"`

	// GroqBaseURL is Groq's OpenAI-compatible address. Default the public one.
	GroqBaseURL string `env:"GROQ_BASE_URL" envDefault:"https://api.groq.com/openai/v1"`

	// AnthropicKey is the shared key for calls straight to Anthropic. No default: without it no call goes there directly.
	AnthropicKey Secret `env:"ANTHROPIC_API_KEY"`

	// AnthropicBaseURL is Anthropic's OpenAI-compatible address. Default the public one.
	AnthropicBaseURL string `env:"ANTHROPIC_BASE_URL" envDefault:"https://api.anthropic.com/v1"`

	// GoogleKey is the shared key for calls straight to Gemini. No default: without it no call goes there directly.
	GoogleKey Secret `env:"GOOGLE_API_KEY"`

	// GoogleBaseURL is Gemini's OpenAI-compatible address. Default the public one.
	GoogleBaseURL string `env:"GOOGLE_BASE_URL" envDefault:"https://generativelanguage.googleapis.com/v1beta/openai"`

	// ExchangeRateURL answers with today's reais for one dollar, in open.er-api.com's form; it is asked when PTAX has
	// nothing. Default the public one. Change it to reach it through a mirror.
	ExchangeRateURL string `env:"CATRACA_EXCHANGE_RATE_URL" envDefault:"https://open.er-api.com/v6/latest/USD"`

	// PTAXURL is the root of the central bank's PTAX service, the rate that is booked. Default the public one. Change
	// it to reach it through a mirror.
	PTAXURL string `env:"CATRACA_PTAX_URL" envDefault:"https://olinda.bcb.gov.br/olinda/servico/PTAX/versao/v1/odata"`

	// CronToken is what /api/cron/… wants as its bearer token beside the admin token, at least 16 characters, for a
	// scheduler that should know nothing more. No default: the admin token only. Nothing needs to call these: the control
	// plane does the same by itself, within seconds.
	CronToken Secret `env:"CATRACA_CRON_TOKEN"`

	// AlertWebhook is where every alert of a budget is sent, beside the address that the budget itself has: an https://
	// URL, on port 443. No default: only budgets with an address of their own have webhooks. What is in it is treated as a secret.
	AlertWebhook Secret `env:"CATRACA_ALERT_WEBHOOK"`

	// AlertEmail lists addresses, separated by commas, that every alert of a budget is mailed to, beside the budget's own.
	// No default. It needs CATRACA_SMTP_URL.
	AlertEmail string `env:"CATRACA_ALERT_EMAIL"`

	// AlertLanguage is what e-mails about budgets are written in: pt-BR or en. Default pt-BR.
	AlertLanguage string `env:"CATRACA_ALERT_LANGUAGE" envDefault:"pt-BR"`

	// WebhookSecret signs webhooks, as the Standard Webhooks specification has it: whsec_ and 24 to 64 bytes in base64. It
	// is a list, newest first, separated by commas: all of them sign, so that receivers can change over. Default: derived from
	// CATRACA_MASTER_KEY. Make one: echo whsec_$(openssl rand -base64 32)
	WebhookSecret Secret `env:"CATRACA_WEBHOOK_SECRET"`

	// WebhookAllowHTTP lets webhooks go to http:// on port 80 too. Default false: what they tell would cross the network
	// in the clear.
	WebhookAllowHTTP bool `env:"CATRACA_WEBHOOK_ALLOW_HTTP" envDefault:"false"`

	// WebhookAllowPrivate lists networks, as prefixes separated by commas (10.20.0.0/16), that webhooks may reach although
	// they are private. No default: only public addresses, whatever a name resolves to.
	WebhookAllowPrivate string `env:"CATRACA_WEBHOOK_ALLOW_PRIVATE"`

	// WebhookPorts lists ports, separated by commas, that webhooks may go to beside 443. No default.
	WebhookPorts string `env:"CATRACA_WEBHOOK_PORTS"`

	// SMTPURL is the mail server for alerts: smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465.
	// A relay beside Catraca that speaks no TLS is smtp://host:25?tls=off, without a password. No default: no e-mail is sent.
	SMTPURL SecretURL `env:"CATRACA_SMTP_URL"`

	// SMTPFrom is the sender of e-mails, as an address or as "Name <address>". No default: needed with CATRACA_SMTP_URL.
	SMTPFrom string `env:"CATRACA_SMTP_FROM"`

	// plane is which command the settings are for; the zero value is serve.
	plane plane

	// origin says for each variable that was set where its value is from, for `catraca check`.
	origin map[string]string
}

// plane is what a process is of the two: one of them, or with serve both.
type plane string

const (
	planeBoth    plane = ""
	planeProxy   plane = "proxy"
	planeControl plane = "control"
)

// command is how a plane is started.
func (p plane) command() string {
	if p == planeBoth {
		return "serve"
	}
	return string(p)
}

// Embedded says that everything lives in the data directory: SQLite, the queue in process, no server beside this one.
func (c *Config) Embedded() bool {
	return c.plane == planeBoth && !c.DatabaseURL.IsSet() && !c.RedisURL.IsSet()
}

// SidecarTokens are the tokens of the link, newest first.
func (c *Config) SidecarTokens() []string {
	return strings.FieldsFunc(c.SidecarToken.Reveal(), func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// SnapshotPath is where the last good configuration is kept.
func (c *Config) SnapshotPath() string { return filepath.Join(c.DataDir, "last-good") }

// Provider is an upstream that can be called directly, with the names of its variables.
type Provider struct {
	Name    string // as in the model registry
	Key     Secret
	KeyVar  string
	BaseURL string
	BaseVar string
}

// Gateway is the AI gateway as an upstream.
func (c *Config) Gateway() Provider {
	return Provider{"gateway", c.GatewayKey, "AI_GATEWAY_API_KEY", c.GatewayBaseURL, "AI_GATEWAY_BASE_URL"}
}

// Providers lists the upstreams of the direct route, whether they have a key or not.
func (c *Config) Providers() []Provider {
	return []Provider{
		{"openai", c.OpenAIKey, "OPENAI_API_KEY", c.OpenAIBaseURL, "OPENAI_BASE_URL"},
		{"groq", c.GroqKey, "GROQ_API_KEY", c.GroqBaseURL, "GROQ_BASE_URL"},
		{"anthropic", c.AnthropicKey, "ANTHROPIC_API_KEY", c.AnthropicBaseURL, "ANTHROPIC_BASE_URL"},
		{"google", c.GoogleKey, "GOOGLE_API_KEY", c.GoogleBaseURL, "GOOGLE_BASE_URL"},
	}
}

// SQLitePath is the embedded database.
func (c *Config) SQLitePath() string { return filepath.Join(c.DataDir, "catraca.db") }

// SpoolDir is where calls wait for the ledger.
func (c *Config) SpoolDir() string { return filepath.Join(c.DataDir, "spool") }

// AdminTokenPath is where an embedded Catraca keeps the admin token it made, and where the admin client finds it.
func (c *Config) AdminTokenPath() string { return filepath.Join(c.DataDir, "admin-token") }

// MasterKeyPath is where an embedded Catraca keeps the master key it made.
func (c *Config) MasterKeyPath() string { return filepath.Join(c.DataDir, "master-key") }
