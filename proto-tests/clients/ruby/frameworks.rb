# Active Record, which stands on ruby-pg: a migration from a file, models, a pool.

require "json"
require "tmpdir"
require "active_record"

MODE = ENV.fetch("CLIENT_TLS")
SCHEMA = "active_record_#{MODE}"
WHERE = {
  adapter: "postgresql",
  host: ENV.fetch("CLIENT_HOST"),
  port: ENV.fetch("CLIENT_PORT"),
  username: "app@shop.prod",
  database: "app",
  sslmode: MODE,
  schema_search_path: SCHEMA,
  pool: 5,
}.freeze

MIGRATION = <<~RUBY.freeze
  class CreateBoats < ActiveRecord::Migration[7.2]
    def change
      create_table(:boats) do |table|
        table.string :name, null: false
        table.jsonb :log, default: {}
        table.timestamps
      end
      create_table(:trips) do |table|
        table.references :boat, null: false, foreign_key: true
        table.string :harbour
      end
      add_index :boats, :name, unique: true
    end
  end
RUBY

class Boat < ActiveRecord::Base
  has_many :trips, dependent: :destroy
end

class Trip < ActiveRecord::Base
  belongs_to :boat
end

def say(what)
  puts JSON.generate(what)
  $stdout.flush
end

def same(found, wanted)
  raise "#{found.inspect[0, 300]} is not #{wanted.inspect[0, 300]}" unless found == wanted
end

def fails(kind)
  yield
rescue kind => error
  error
else
  raise "no #{kind} came"
end

# On a session that no pool has.
def apart
  connection = PG.connect(host: WHERE[:host], port: WHERE[:port], user: WHERE[:username], dbname: "app", sslmode: MODE)
  yield connection
ensure
  connection&.close
end

def migrate
  apart do |one|
    one.exec("drop schema if exists #{SCHEMA} cascade")
    one.exec("create schema #{SCHEMA}")
  end
  Dir.mktmpdir do |folder|
    File.write("#{folder}/20260101000000_create_boats.rb", MIGRATION)
    context = ActiveRecord::MigrationContext.new(folder)
    context.migrate
    same(context.current_version, 20_260_101_000_000)
    [Boat, Trip].each(&:reset_column_information)
    same(Boat.column_names, %w[id name log created_at updated_at])
    use
    context.rollback
    same(Boat.connection.tables - %w[schema_migrations ar_internal_metadata], [])
  end
end

def use
  ferry = Boat.create!(name: "Fähre", log: { "speed" => 12 })
  ferry.trips.create!([{ harbour: "Kiel" }, { harbour: "Oslo" }])
  same(Boat.includes(:trips).where("log->>'speed' = ?", "12").flat_map { |one| one.trips.map(&:harbour) }, %w[Kiel Oslo])
  fails(ActiveRecord::RecordNotUnique) { Boat.create!(name: "Fähre") }
  Boat.transaction do
    Boat.destroy_all
    same(Trip.count, 0)
    raise ActiveRecord::Rollback
  end
  same(Trip.joins(:boat).where(boats: { name: "Fähre" }).count, 2)
  pooled
end

# Five sessions at a time, which the server ends; the pool has new ones.
def pooled
  Boat.connection_handler.clear_active_connections!
  pids, all = Queue.new, Queue.new
  threads = Array.new(5) do
    Thread.new do
      Boat.connection_pool.with_connection do |one|
        pids << one.select_value("select pg_backend_pid()")
        all.pop
      end
    end
  end
  found = Array.new(5) { pids.pop }
  same(found.uniq.length, 5)
  5.times { all << :on }
  threads.each(&:join)
  apart do |one|
    some = "'{#{found.join(",")}}'::int[]"
    same(one.exec("select pg_terminate_backend(pid) from pg_stat_activity where pid = any(#{some})").ntuples, 5)
    alive = "select count(*) from pg_stat_activity where pid = any(#{some})"
    sleep(0.01) until one.exec(alive).getvalue(0, 0) == "0"
  end
  same(Boat.pluck(:name), ["Fähre"])
  same(found.include?(Boat.connection.select_value("select pg_backend_pid()")), false)
end

ActiveRecord::Base.establish_connection(WHERE)
ActiveRecord::Migration.verbose = false
say(version: "")
begin
  migrate
  say(cell: "Active Record", ok: true)
rescue StandardError => error
  say(cell: "Active Record", ok: false, detail: error.full_message(highlight: false))
end
