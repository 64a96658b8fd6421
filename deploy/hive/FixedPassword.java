import javax.security.sasl.AuthenticationException;
import org.apache.hive.service.auth.PasswdAuthenticationProvider;

/** For tests of CUSTOM authentication: lets in one user, with one password. Never use it anywhere else. */
public class FixedPassword implements PasswdAuthenticationProvider {
  public void Authenticate(String user, String password) throws AuthenticationException {
    if (!"fedpredict".equals(user) || !"right p\u00e4ssword".equals(password)) {
      throw new AuthenticationException("user or password is wrong");
    }
  }
}
