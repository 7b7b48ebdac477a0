package main

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"pgferry.dev/clients/cells"
)

var always = context.Background()

type connection struct {
	*pgx.Conn
	notices []string
}

func connect(user, database string, direct bool) (*connection, error) {
	config, err := pgx.ParseConfig(cells.URL(user, database, direct))
	if err != nil {
		return nil, err
	}
	one := &connection{}
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { one.notices = append(one.notices, notice.Message) }
	one.Conn, err = pgx.ConnectConfig(always, config)
	return one, err
}

func (one *connection) Value(sql string, bound ...any) (value string, err error) {
	if len(bound) == 0 {
		bound = []any{pgx.QueryExecModeSimpleProtocol}
	}
	err = one.QueryRow(always, sql, bound...).Scan(&value)
	return value, err
}

func (one *connection) Run(sql string) error {
	_, err := one.Exec(always, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (one *connection) Close() { _ = one.Conn.Close(always) }

var driver = cells.Driver{
	Connect: func(user, database string, direct bool) (cells.Connection, error) {
		return connect(user, database, direct)
	},
	Error: func(err error) (string, string, string) {
		var told *pgconn.PgError
		if !errors.As(err, &told) {
			return err.Error(), "", ""
		}
		return told.Message, told.Code, told.Hint
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
	_, err := one.PgConn().CopyFrom(always, strings.NewReader(cells.Lines()), "copy t from stdin")
	cells.Check(err)
	rows := pgx.CopyFromSlice(cells.Rows, func(n int) ([]any, error) { return []any{n, "binary"}, nil })
	_, err = one.CopyFrom(always, pgx.Identifier{"t"}, []string{"n", "line"}, rows)
	cells.Check(err)
	cells.Is(one, "20000", "select count(*)::text from t")
}

func copyOut() {
	one := open()
	defer one.Close()
	var text bytes.Buffer
	_, err := one.PgConn().CopyTo(always, &text, cells.CopyOut)
	cells.Check(err)
	cells.Same(text.String(), cells.Lines())
}

func cancel() {
	one := open()
	defer one.Close()
	pid, err := one.Value("select pg_backend_pid()::text")
	cells.Check(err)
	ended := make(chan error)
	go func() { ended <- one.Run("select pg_sleep(3600)") }()
	driver.WaitForSleep(pid, "true")
	cells.Check(one.PgConn().CancelRequest(always))
	_, code, _ := driver.Error(<-ended)
	cells.Same(code, "57014")
	cells.Is(one, "on", "select 'on'")
}

func notice() {
	one := open()
	defer one.Close()
	cells.Check(one.Run("do $$ begin raise notice 'ahoy'; end $$"))
	cells.Same(strings.Join(one.notices, ","), "ahoy")
}

func listen() {
	one, other := open(), open()
	defer one.Close()
	defer other.Close()
	cells.Check(one.Run("listen pgx"))
	cells.Check(other.Run("notify pgx, 'ahoy'"))
	heard, err := one.WaitForNotification(always)
	cells.Check(err)
	cells.Same(heard.Payload, "ahoy")
}

func pipeline() {
	one := open()
	defer one.Close()
	batch := &pgx.Batch{}
	for n := range 100 {
		batch.Queue("select $1::int", n)
	}
	results := one.SendBatch(always, batch)
	for n := range 100 {
		var found int
		cells.Check(results.QueryRow().Scan(&found))
		cells.Same(found, n)
	}
	cells.Check(results.Close())
}

func main() {
	driver.Own = map[string]func(){
		"COPY in": copyIn, "COPY out": copyOut, "cancel": cancel, "notice": notice, "LISTEN": listen, "pipeline": pipeline,
	}
	driver.Run("github.com/jackc/pgx/v5")
}
