# Every cell of ruby-pg.

require "json"
require "pg"

HOST = ENV.fetch("CLIENT_HOST")
PORT = ENV.fetch("CLIENT_PORT")
MODE = ENV.fetch("CLIENT_TLS")
TARGET = "shop.prod"
DEFAULT = "pgferry"
USER = "app@shop.prod"
BIG = 64 << 20
ROWS = 10_000

def say(what)
  puts JSON.generate(what)
  $stdout.flush
end

def same(found, wanted)
  raise "#{found.inspect[0, 300]} is not #{wanted.inspect[0, 300]}" unless found == wanted
end

def connect(user, database, **more)
  PG.connect(host: HOST, port: PORT, user: user, dbname: database, sslmode: MODE, **more)
end

def with(user = USER, database = "app", **more)
  connection = connect(user, database, **more)
  yield connection
ensure
  connection&.close unless connection&.finished?
end

def value(connection, sql)
  connection.exec(sql).getvalue(0, 0)
end

def fails
  yield
rescue PG::Error => error
  error
else
  raise "no error came"
end

def code(error) = error.result.error_field(PG::PG_DIAG_SQLSTATE)

def who(user, database, wanted)
  with(user, database) { |one| same(value(one, "select current_user || '/' || current_database()"), wanted) }
end

# At connect libpq has no fields, but the whole text.
def refused(user, database, *words)
  message = fails { connect(user, database) }.message
  words.each { |word| raise message unless message.include?(word) }
  "message, hint"
end

def lines = (0...ROWS).map { |n| "#{n}\tline #{n}\n" }.join

def sleeping(pid)
  look = "select (state = 'active' and query like '%pg_sleep%')::text from pg_stat_activity where pid = #{pid}"
  with { |other| sleep(0.01) until value(other, look) == "true" }
end

CELLS = {
  "connect" => -> { who(DEFAULT, TARGET, "app/app") },
  "direct TLS" => -> { with(sslnegotiation: "direct") { |one| same(value(one, "select 'on'"), "on") } },
  "database name" => lambda do
    who(DEFAULT, TARGET, "app/app")
    who("reporting", TARGET, "reporting/app")
  end,
  "role@target" => -> { %w[app postgres].each { |database| who(USER, database, "app/#{database}") } },
  "simple query" => -> { with { |one| same(value(one, "select 'F' || 6 * 7"), "F42") } },
  "prepared" => lambda do
    with do |one|
      one.prepare("p", "select 'the ' || $1::text")
      %w[one two].each { |word| same(one.exec_prepared("p", [word]).getvalue(0, 0), "the #{word}") }
    end
  end,
  "transaction" => lambda do
    with do |one|
      one.exec("create temp table t (n int)")
      [["rollback", "0"], ["commit", "1"]].each do |ending, wanted|
        ["begin", "insert into t values (1)", ending].each { |sql| one.exec(sql) }
        same(value(one, "select count(*) from t"), wanted)
      end
    end
  end,
  "COPY in" => lambda do
    with do |one|
      one.exec("create temp table t (n int, line text)")
      one.copy_data("copy t from stdin") { one.put_copy_data(lines) }
      same(value(one, "select count(*) from t"), ROWS.to_s)
    end
  end,
  "COPY out" => lambda do
    with do |one|
      found = +""
      one.copy_data("copy (select n, 'line ' || n from generate_series(0, #{ROWS - 1}) n) to stdout") do
        while (row = one.get_copy_data)
          found << row
        end
      end
      same(found, lines)
    end
  end,
  "error" => lambda do
    with do |one|
      same(code(fails { one.exec("select 1 / 0") }), "22012")
      same(value(one, "select 'on'"), "on")
      one.exec("begin")
      same(code(fails { one.exec("select nothing") }), "42703")
      same(code(fails { one.exec("select 'on'") }), "25P02")
      one.exec("rollback")
      same(value(one, "select 'on'"), "on")
    end
  end,
  "cancel" => lambda do
    with do |one|
      ended = Thread.new { fails { one.exec("select pg_sleep(3600)") } }
      sleeping(one.backend_pid)
      same(one.cancel, nil)
      same(code(ended.value), "57014")
      same(value(one, "select 'on'"), "on")
    end
  end,
  "notice" => lambda do
    with do |one|
      heard = []
      one.set_notice_receiver { |result| heard << result.error_field(PG::PG_DIAG_MESSAGE_PRIMARY) }
      one.exec("do $$ begin raise notice 'ahoy'; end $$")
      same(heard, ["ahoy"])
    end
  end,
  "LISTEN" => lambda do
    with do |one|
      one.exec("listen ruby_pg")
      with { |other| other.exec("notify ruby_pg, 'ahoy'") }
      one.wait_for_notify { |_channel, _pid, payload| same(payload, "ahoy") }
    end
  end,
  "64 MiB" => lambda do
    with do |one|
      same(one.exec_params("select length($1::text)", ["x" * BIG]).getvalue(0, 0), BIG.to_s)
      same(value(one, "select repeat('y', #{BIG})").length, BIG)
    end
  end,
  "pipeline" => lambda do
    with do |one|
      one.enter_pipeline_mode
      100.times { |n| one.send_query_params("select $1::int", [n]) }
      one.pipeline_sync
      100.times do |n|
        same(one.get_result.getvalue(0, 0), n.to_s)
        same(one.get_result, nil)
      end
      same(one.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
    end
  end,
  "reconnect" => lambda do
    with do |one|
      with { |other| same(value(other, "select pg_terminate_backend(#{one.backend_pid})"), "t") }
      fails { one.exec("select 'on'") }
      one.reset
      same(value(one, "select 'on'"), "on")
    end
  end,
  "20 at once" => lambda do
    all = Array.new(20) { Thread.new { connect(USER, "app") } }.map(&:value)
    same(all.map { |one| value(one, "select pg_backend_pid()") }.uniq.length, 20)
    all.each(&:close)
  end,
  "wrong cluster" => -> { refused(DEFAULT, "nowhere.prod", "nowhere", "HINT:") },
  "wrong role" => -> { refused("nobody@shop.prod", "app", "nobody", "shop.prod", "HINT:") },
}.freeze

say(version: PG::VERSION.split(".")[0, 2].join("."))
CELLS.each do |name, cell|
  next if name == "direct TLS" && MODE != "require"

  detail = cell.call
  say(cell: name, ok: true, detail: detail.is_a?(String) && detail.include?("message") ? detail : "")
rescue StandardError => error
  say(cell: name, ok: false, detail: error.full_message(highlight: false))
end
