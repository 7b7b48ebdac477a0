package main

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/lib/pq"

	"pgferry.dev/clients/cells"
)

var always = context.Background()

// One session, out of a pool of one.
type connection struct {
	*sql.Conn
	pool    *sql.DB
	notices []string
}

func connect(user, database string, direct bool) (*connection, error) {
	base, err := pq.NewConnector(cells.URL(user, database, direct))
	if err != nil {
		return nil, err
	}
	one := &connection{}
	heard := func(notice *pq.Error) { one.notices = append(one.notices, notice.Message) }
	one.pool = sql.OpenDB(pq.ConnectorWithNoticeHandler(base, heard))
	one.Conn, err = one.pool.Conn(always)
	return one, err
}

func (one *connection) Value(text string, bound ...any) (value string, err error) {
	if len(bound) == 0 {
		err = one.QueryRowContext(always, text).Scan(&value)
		return value, err
	}
	statement, err := one.PrepareContext(always, text)
	if err != nil {
		return "", err
	}
	defer statement.Close()
	err = statement.QueryRowContext(always, bound...).Scan(&value)
	return value, err
}

func (one *connection) Run(text string) error {
	_, err := one.ExecContext(always, text)
	return err
}

func (one *connection) Close() {
	_ = one.Conn.Close()
	_ = one.pool.Close()
}

var driver = cells.Driver{
	Connect: func(user, database string, direct bool) (cells.Connection, error) {
		return connect(user, database, direct)
	},
	Error: func(err error) (string, string, string) {
		var told *pq.Error
		if !errors.As(err, &told) {
			return err.Error(), "", ""
		}
		return told.Message, string(told.Code), told.Hint
	},
}

func open() *connection {
	one, err := connect(cells.User, "app", false)
	cells.Check(err)
	return one
}

func copyIn() {
	one := open()
	defer one.Close()
	cells.Check(one.Run("create temp table t (n int, line text)"))
	work, err := one.BeginTx(always, nil)
	cells.Check(err)
	statement, err := work.Prepare("copy t from stdin")
	cells.Check(err)
	for n := range cells.Rows {
		_, err = statement.Exec(n, "line")
		cells.Check(err)
	}
	_, err = statement.Exec()
	cells.Check(err)
	cells.Check(statement.Close())
	cells.Check(work.Commit())
	cells.Is(one, "10000", "select count(*)::text from t")
}

// A context that ends becomes a cancel request.
func cancel() {
	one := open()
	defer one.Close()
	pid, err := one.Value("select pg_backend_pid()::text")
	cells.Check(err)
	until, stop := context.WithCancel(always)
	ended := make(chan error)
	go func() {
		_, err := one.ExecContext(until, "select pg_sleep(3600)")
		ended <- err
	}()
	driver.WaitForSleep(pid, "true")
	stop()
	if err = <-ended; err == nil {
		panic("no error came")
	}
	_, code, _ := driver.Error(err)
	cells.Same(code == "57014" || errors.Is(err, context.Canceled), true)
	driver.WaitForSleep(pid, "false")
}

func notice() {
	one := open()
	defer one.Close()
	cells.Check(one.Run("do $$ begin raise notice 'ahoy'; end $$"))
	cells.Same(strings.Join(one.notices, ","), "ahoy")
}

func listen() {
	listener := pq.NewListener(cells.URL(cells.User, "app", false), time.Second, time.Minute, nil)
	defer listener.Close()
	cells.Check(listener.Listen("lib_pq"))
	other := open()
	defer other.Close()
	cells.Check(other.Run("notify lib_pq, 'ahoy'"))
	for heard := range listener.NotificationChannel() {
		// Nothing, where it had to connect again.
		if heard != nil {
			cells.Same(heard.Extra, "ahoy")
			return
		}
	}
}

func main() {
	// Its direct TLS comes without ALPN, which PostgreSQL refuses, too.
	driver.Negotiated = true
	driver.Own = map[string]func(){"COPY in": copyIn, "cancel": cancel, "notice": notice, "LISTEN": listen}
	driver.Run("github.com/lib/pq")
}
