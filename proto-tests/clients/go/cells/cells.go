// Package cells runs every cell of a Go driver, made of the few things that drivers do differently.
package cells

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

const (
	target   = "shop.prod"
	byChoice = "pgferry"
	User     = "app@shop.prod"
	big      = 64 << 20
	Rows     = 10_000
)

// CopyOut is the statement whose answer is Lines.
var CopyOut = fmt.Sprintf("copy (select n, 'line ' || n from generate_series(0, %d) n) to stdout", Rows-1)

// Address is host and port.
func Address() (string, string) { return os.Getenv("CLIENT_HOST"), os.Getenv("CLIENT_PORT") }

// URL is where a user finds a database; both forms of names are escaped in it.
func URL(user, database string, direct bool) string {
	host, port := Address()
	more := ""
	if direct {
		more = "&sslnegotiation=direct"
	}
	user = strings.ReplaceAll(user, "@", "%40")
	return fmt.Sprintf("postgresql://%s@%s:%s/%s?sslmode=%s%s", user, host, port, database, os.Getenv("CLIENT_TLS"), more)
}

// Lines is what COPY carries.
func Lines() string {
	var text strings.Builder
	for n := range Rows {
		fmt.Fprintf(&text, "%d\tline %d\n", n, n)
	}
	return text.String()
}

// Connection is what all cells are made of.
type Connection interface {
	// Value is the first value of the first row; without bound values by the simple protocol.
	Value(sql string, bound ...any) (string, error)
	Run(sql string) error
	Close()
}

// Driver is a driver.
type Driver struct {
	Connect func(user, database string, direct bool) (Connection, error)
	// Error gives message, SQLSTATE and hint.
	Error func(error) (string, string, string)
	// Negotiated is whether it has no TLS but after a question for it.
	Negotiated bool
	// Own are the driver's own cells.
	Own map[string]func()
}

func say(what map[string]any) {
	line, _ := json.Marshal(what)
	fmt.Println(string(line))
}

// Check ends the cell.
func Check(err error) {
	if err != nil {
		panic(err)
	}
}

// Same ends the cell where two things differ.
func Same[T comparable](found, wanted T) {
	if found != wanted {
		panic(fmt.Sprintf("%.300v is not %.300v", found, wanted))
	}
}

// Version is the driver's, as its module says.
func Version(module string) string {
	about, _ := debug.ReadBuildInfo()
	for _, one := range about.Deps {
		if one.Path == module {
			return strings.TrimPrefix(one.Version, "v")
		}
	}
	return ""
}

// Open opens a connection or ends the cell.
func (driver *Driver) Open(user, database string) Connection {
	connection, err := driver.Connect(user, database, false)
	Check(err)
	return connection
}

// Is ends the cell where a query gives something else.
func Is(connection Connection, wanted, sql string, bound ...any) {
	found, err := connection.Value(sql, bound...)
	Check(err)
	Same(found, wanted)
}

func (driver *Driver) code(err error) string {
	if err == nil {
		panic("no error came")
	}
	_, code, _ := driver.Error(err)
	return code
}

func (driver *Driver) who(user, database, wanted string) {
	one := driver.Open(user, database)
	defer one.Close()
	Is(one, wanted, "select current_user || '/' || current_database()")
}

func (driver *Driver) prepared() {
	one := driver.Open(User, "app")
	defer one.Close()
	for _, value := range []string{"one", "two", "three"} {
		Is(one, "the "+value, "select 'the ' || $1::text", value)
	}
}

func (driver *Driver) transaction() {
	one := driver.Open(User, "app")
	defer one.Close()
	Check(one.Run("create temp table t (n int)"))
	for end, wanted := range map[string]string{"rollback": "0", "commit": "1"} {
		for _, sql := range []string{"truncate t", "begin", "insert into t values (1)", end} {
			Check(one.Run(sql))
		}
		Is(one, wanted, "select count(*)::text from t")
	}
}

func (driver *Driver) error() {
	one := driver.Open(User, "app")
	defer one.Close()
	failing := func(sql, code string) {
		_, err := one.Value(sql)
		Same(driver.code(err), code)
	}
	failing("select (1 / 0)::text", "22012")
	Is(one, "on", "select 'on'")
	Check(one.Run("begin"))
	failing("select nothing", "42703")
	failing("select 'on'", "25P02")
	Check(one.Run("rollback"))
	Is(one, "on", "select 'on'")
}

func (driver *Driver) large() {
	one := driver.Open(User, "app")
	defer one.Close()
	Is(one, fmt.Sprint(big), "select length($1::text)::text", strings.Repeat("x", big))
	found, err := one.Value(fmt.Sprintf("select repeat('y', %d)", big))
	Check(err)
	Same(len(found), big)
}

func (driver *Driver) reconnect() {
	one, other := driver.Open(User, "app"), driver.Open(User, "app")
	defer other.Close()
	pid, err := one.Value("select pg_backend_pid()::text")
	Check(err)
	Is(other, "true", "select pg_terminate_backend("+pid+")::text")
	if _, err := one.Value("select 'on'"); err == nil {
		panic("no error came")
	}
	one.Close()
	again := driver.Open(User, "app")
	defer again.Close()
	Is(again, "on", "select 'on'")
}

func (driver *Driver) twenty() {
	var all sync.WaitGroup
	pids, faults := make([]string, 20), make([]error, 20)
	open := make([]Connection, 20)
	for n := range 20 {
		all.Go(func() {
			if open[n], faults[n] = driver.Connect(User, "app", false); faults[n] == nil {
				pids[n], faults[n] = open[n].Value("select pg_backend_pid()::text")
			}
		})
	}
	all.Wait()
	distinct := map[string]bool{}
	for n := range 20 {
		Check(faults[n])
		distinct[pids[n]] = true
		open[n].Close()
	}
	Same(len(distinct), 20)
}

func (driver *Driver) refused(user, database, code string, words ...string) string {
	_, err := driver.Connect(user, database, false)
	Same(driver.code(err), code)
	message, _, hint := driver.Error(err)
	for _, word := range words {
		Same(strings.Contains(message, word), true)
	}
	Same(hint != "", true)
	return "message, SQLSTATE, hint"
}

// WaitForSleep waits until the server is at work on a sleep, or no more.
func (driver *Driver) WaitForSleep(pid, wanted string) {
	other := driver.Open(User, "app")
	defer other.Close()
	look := "select (count(*) > 0)::text from pg_stat_activity where state = 'active' and query like '%pg_sleep%' and pid = "
	for {
		found, err := other.Value(look + pid)
		Check(err)
		if found == wanted {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func attempt(cell string, what func() string) {
	defer func() {
		if fault := recover(); fault != nil {
			say(map[string]any{"cell": cell, "ok": false, "detail": fmt.Sprintf("%v\n%s", fault, debug.Stack())})
		}
	}()
	say(map[string]any{"cell": cell, "ok": true, "detail": what()})
}

// Run runs all cells.
func (driver *Driver) Run(module string) {
	say(map[string]any{"version": Version(module)})
	cells := map[string]func(){
		"connect": func() { driver.who(byChoice, target, "app/app") },
		"database name": func() {
			driver.who(byChoice, target, "app/app")
			driver.who("reporting", target, "reporting/app")
		},
		"role@target": func() {
			driver.who(User, "app", "app/app")
			driver.who(User, "postgres", "app/postgres")
		},
		"simple query": func() {
			one := driver.Open(User, "app")
			defer one.Close()
			Is(one, "Fähre 42", "select 'Fähre ' || 6 * 7")
		},
		"prepared": driver.prepared, "transaction": driver.transaction, "error": driver.error, "64 MiB": driver.large,
		"reconnect": driver.reconnect, "20 at once": driver.twenty,
	}
	if os.Getenv("CLIENT_TLS") == "require" && !driver.Negotiated {
		cells["direct TLS"] = func() {
			one, err := driver.Connect(User, "app", true)
			Check(err)
			defer one.Close()
			Is(one, "on", "select 'on'")
		}
	}
	for cell, what := range driver.Own {
		cells[cell] = what
	}
	for cell, what := range cells {
		attempt(cell, func() string { what(); return "" })
	}
	attempt("wrong cluster", func() string { return driver.refused(byChoice, "nowhere.prod", "3D000", "nowhere") })
	attempt("wrong role", func() string {
		return driver.refused("nobody@shop.prod", "app", "28000", "nobody", "shop.prod")
	})
}
