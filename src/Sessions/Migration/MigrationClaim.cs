using System.Security.Cryptography;

namespace Bunraku.Sessions.Migration;

/// <summary>
/// Whose the VM is once the connection may break: a file that both ends see, since both are on one host, and that only one of them can take. The sender makes
/// it. The receiver takes it when it is told to, and then has the VM; a sender that is not told of that tries to take it back. Renaming a file succeeds once.
/// </summary>
/// <param name="Token">Names the file: 32 hexadecimal digits that nobody can guess.</param>
internal sealed record MigrationClaim(string Token)
{
    private const int Digits = 32;

    private string File => Path.Combine(Path.GetTempPath(), $"bunraku-claim-{Token}");

    /// <summary>A new one.</summary>
    /// <exception cref="IOException">The folder for temporary files cannot be written.</exception>
    public static MigrationClaim Create()
    {
        var claim = new MigrationClaim(RandomNumberGenerator.GetHexString(Digits, lowercase: true));
        new FileStream(claim.File, FileMode.CreateNew, FileAccess.Write).Dispose(); // empty: what counts is its name
        return claim;
    }

    /// <summary>The text names a claim.</summary>
    public static bool IsToken(string? text) => text is { Length: Digits } && text.All(char.IsAsciiHexDigitLower);

    /// <summary>It is there to be taken.</summary>
    public bool Exists => System.IO.File.Exists(File);

    /// <summary>Takes it. False: the other end has it already.</summary>
    public bool TryTake()
    {
        string taken = $"{File}.{Guid.NewGuid():N}";
        try
        {
            System.IO.File.Move(File, taken, overwrite: true); // rename(2): one of two succeeds
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
        try
        {
            System.IO.File.Delete(taken);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // An empty file is left.
        }
        return true;
    }
}
