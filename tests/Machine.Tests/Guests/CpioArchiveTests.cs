using System.Diagnostics;

namespace Bunraku.Machine.Tests;

public sealed class CpioArchiveTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-cpio").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void Cpio_lists_and_unpacks_what_was_written()
    {
        var archive = new CpioArchive();
        archive.AddDirectory("d");
        for (int n = 0; n < 9; n++) archive.AddFile("d/file" + new string('x', n), Enumerable.Repeat((byte)n, n).ToArray(), 0x1ED);
        archive.AddSymbolicLink("d/link", "file");
        archive.AddCharacterDevice("d/null", 1, 3);
        string path = Path.Combine(_folder, "archive");
        File.WriteAllBytes(path, archive.ToArray());

        string list = Run($"cpio -itvn --quiet < {path}");
        Assert.Matches(@"^drwxr-xr-x +2 0 +0 +0 Jan +1 +1970 d\n", list);
        Assert.Matches(@"\n-rwxr-xr-x +1 0 +0 +3 Jan +1 +1970 d/filexxx\n", list);
        Assert.Matches(@"\nlrwxrwxrwx +1 0 +0 +4 Jan +1 +1970 d/link -> file\n", list);
        Assert.Matches(@"\ncrw------- +1 0 +0 +1, +3 Jan +1 +1970 d/null\n$", list);
        Run($"cd {_folder} && cpio -i --quiet 'd' 'd/file*' < {path}");
        for (int n = 0; n < 9; n++)
            Assert.Equal(Enumerable.Repeat((byte)n, n).ToArray(), File.ReadAllBytes(Path.Combine(_folder, "d", "file" + new string('x', n))));
    }

    private static string Run(string command)
    {
        using Process process =
            Process.Start(new ProcessStartInfo("sh", ["-c", command]) { RedirectStandardOutput = true, Environment = { ["TZ"] = "UTC", ["LC_ALL"] = "C" } })!;
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return output;
    }
}
