package main
import (_ "github.com/jackc/pgx/v5"; _ "github.com/jackc/pgx/v5/pgxpool")
func main(){}
