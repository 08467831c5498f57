package tenancy_test
import ("testing";"time";"context"; . "github.com/catraca/catraca/tenancy")
func TestZZBulk(t *testing.T){
 s:=onPostgres(t,newVault(t)); tenant:=mustTenant(t,s,"a"); _,secret:=mustKey(t,s,tenant.ID,time.Time{})
 st:=time.Now(); s.exec("INSERT INTO clients (name) SELECT 'x' FROM generate_series(1,50000)"); t.Log("insert 50k",time.Since(st))
 ctx,c:=context.WithCancel(context.Background()); defer c()
 k:=NewKeyring(s,KeyringOptions{}); go k.Run(ctx); time.Sleep(time.Second)
 k.Key(ctx,[]byte(secret))
 st=time.Now(); s.exec("UPDATE clients SET use_ai_gateway=NOT use_ai_gateway"); t.Log("flip 50k",time.Since(st)); st=time.Now()
 for { p,_:=k.Key(ctx,[]byte(secret)); if p!=nil && p.UseGateway==false {break}; time.Sleep(time.Millisecond)}
 t.Log("in use after commit", time.Since(st))
}
