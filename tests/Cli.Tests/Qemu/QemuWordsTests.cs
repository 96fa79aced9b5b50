using Bunraku.Cli.Qemu;

namespace Bunraku.Cli.Tests.Qemu;

/// <summary>QEMU manual, "Invocation": lists of words, their commas, and the first word without a name.</summary>
public sealed class QemuWordsTests
{
    [Theory]
    [InlineData("file=a,,b.img,if=virtio", "a,b.img", "virtio")]
    [InlineData("a,,b,if=ide", "a,b", "ide")]
    [InlineData("if=none,file=x=y", "x=y", "none")]
    [InlineData("file=,if=virtio,", "", "virtio")]
    [InlineData(",,a,if=ide", ",a", "ide")]
    public void A_word_goes_up_to_a_single_comma(string text, string file, string kind)
    {
        QemuWords words = QemuWords.Parse("-drive", text, "file");
        Assert.Equal(file, words.Take("file"));
        Assert.Equal(kind, words.Take("if"));
        words.Finish();
    }

    [Fact]
    public void A_word_alone_is_on_and_off_behind_no()
    {
        QemuWords words = QemuWords.Parse("-serial", "/s,server,nowait", "place");
        Assert.Equal("/s", words.Take("place"));
        Assert.True(words.TakeSwitch("server"));
        Assert.False(words.TakeSwitch("wait"));
        Assert.Null(words.TakeSwitch("telnet"));
        words.Finish();
    }

    [Fact]
    public void Of_a_word_given_twice_the_last_one_counts_or_all_do()
    {
        QemuWords words = QemuWords.Parse("-netdev", "user,hostfwd=tcp::1-:1,hostfwd=tcp::2-:2,id=a,id=b", "type");
        Assert.Equal(["tcp::1-:1", "tcp::2-:2"], words.TakeAll("hostfwd"));
        Assert.Equal("b", words.Take("id"));
    }

    [Fact]
    public void What_is_left_is_named()
    {
        QemuWords words = QemuWords.Parse("-device", "thing,colour=red", "driver");
        words.Take("driver");
        Assert.Contains("'colour'", Assert.Throws<UsageException>(words.Finish).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_object_of_JSON_is_the_same_list()
    {
        QemuWords words = QemuWords.Parse("-blockdev",
            """{"driver":"qcow2","node-name":"d","read-only":true,"file":{"driver":"file","filename":"a,b"},"list":[1,"x"]}""");
        Assert.Equal("qcow2", words.Take("driver"));
        Assert.Equal("d", words.Take("node-name"));
        Assert.True(words.TakeSwitch("read-only"));
        Assert.Equal("a,b", words.Take("file.filename"));
        Assert.Equal("file", words.Take("file.driver"));
        Assert.Equal(1, words.TakeNumber("list.0"));
        Assert.Equal("x", words.Take("list.1"));
        words.Finish();
        Assert.Throws<UsageException>(() => QemuWords.Parse("-device", "{nonsense"));
    }

    [Theory]
    [InlineData("512", 512ul << 20)]
    [InlineData("1G", 1ul << 30)]
    [InlineData("1.5g", 3ul << 29)]
    [InlineData("65536K", 64ul << 20)]
    [InlineData("100B", 100ul)]
    public void Sizes(string text, ulong bytes) => Assert.Equal(bytes, QemuWords.Size("-m", text, 1 << 20));

    [Theory]
    [InlineData("")]
    [InlineData("G")]
    [InlineData("-1")]
    [InlineData("99999999999E")]
    [InlineData("1Q")]
    public void No_sizes(string text) => Assert.Throws<UsageException>(() => QemuWords.Size("-m", text, 1 << 20));

    /// <summary>Whatever stands there, the answer is a list or one line.</summary>
    [Fact]
    public void Any_text_is_a_list_or_a_message()
    {
        const string alphabet = "a,=no.{}\"[]:0x-+ \u00e9";
        var random = new Random(7);
        for (int n = 0; n < 20_000; n++)
        {
            string text = new([.. Enumerable.Range(0, random.Next(12)).Select(_ => alphabet[random.Next(alphabet.Length)])]);
            try
            {
                QemuWords words = QemuWords.Parse("-x", text, random.Next(2) == 0 ? "first" : null);
                words.TakeRest();
                words.Finish();
            }
            catch (UsageException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }
    }
}
